"""The storage engine in C and its Python face, :mod:`native.engine`."""
