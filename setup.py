from setuptools import setup

setup(cffi_modules=["native/build_engine.py:ffibuilder"])  # setup.cfg has no key for this
