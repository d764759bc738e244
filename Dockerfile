# One image for every room: the command says which.
#
#   docker build -t speedy-registry .
#   docker run -p 127.0.0.1:5000:5000 -v speedy:/var/lib/speedy speedy-registry serve --insecure-anonymous
#
# Inside a container the loopback address reaches nobody, so the image listens on every address of the container; that needs
# --insecure-anonymous as long as no access control is set up. Publish the port on 127.0.0.1 only.

FROM debian:bookworm-slim AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libisal2 libpq5 libssl3 python3 \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
        gcc libc6-dev libisal-dev libpq-dev libssl-dev python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies first: they change less often than the program, and the layer is kept until they do.
COPY constraints.txt setup.cfg ./
RUN python3 -m venv /opt/speedy \
 && /opt/speedy/bin/pip install --no-cache-dir -c constraints.txt "setuptools>=68" wheel cffi \
 && /opt/speedy/bin/python -c "from setuptools.config.setupcfg import read_configuration as read; print('\n'.join(read('setup.cfg')['options']['install_requires']))" > requirements.txt \
 && /opt/speedy/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY wire wire
COPY native native
COPY chunkserver chunkserver
COPY chunkmaster chunkmaster
COPY metaserver metaserver
COPY imageserver imageserver
COPY registry_driver registry_driver
COPY speedy speedy
RUN /opt/speedy/bin/pip install --no-cache-dir --no-build-isolation --no-deps . \
 && /opt/speedy/bin/pip uninstall -y setuptools wheel pip

FROM base
RUN groupadd --gid 10001 speedy \
 && useradd --uid 10001 --gid speedy --no-create-home --home-dir /var/lib/speedy --shell /usr/sbin/nologin speedy \
 && install -d -o speedy -g speedy -m 0700 /var/lib/speedy \
 && install -d -o speedy -g speedy -m 0755 /run/speedy \
        /run/speedy/cluster /run/speedy/database /run/speedy/database-client
COPY --from=build /opt/speedy /opt/speedy
COPY deploy/make-secrets.sh /usr/local/bin/make-secrets
COPY deploy/healthcheck.py /usr/local/lib/speedy/healthcheck.py
ENV PATH=/opt/speedy/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    SPEEDY_REGISTRY_DATA=/var/lib/speedy \
    SPEEDY_REGISTRY_LISTEN=0.0.0.0:5000
USER speedy
WORKDIR /var/lib/speedy
EXPOSE 5000
HEALTHCHECK --interval=3s --timeout=5s --start-period=60s --retries=10 \
    CMD ["python3", "-I", "/usr/local/lib/speedy/healthcheck.py", "http://127.0.0.1:5000/readyz"]
ENTRYPOINT ["speedy"]
CMD ["serve"]
