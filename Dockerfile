# Pin the base image by its digest: docker build --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:… .
# `docker buildx imagetools inspect python:3.12-slim` shows the digest. EXTRAS lists the extras of the image.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS="azure bedrock dashboard documents facts fetch import oidc otel postgres prices redis vertex"
WORKDIR /src
COPY locks locks
RUN python3 -m venv /opt/build && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --no-deps -r locks/build.lock -r locks/audit.lock
RUN set --; for extra in $EXTRAS; do set -- "$@" -r "locks/extra-$extra.lock"; done; python3 -m venv --without-pip /opt/proxy && /opt/build/bin/python -m pip --python /opt/proxy/bin/python install --no-cache-dir --require-hashes --no-deps -r locks/runtime.lock "$@"
COPY pyproject.toml README.md LICENSE ./
COPY anthropic_proxy anthropic_proxy
COPY conformance/messages_conformance conformance/messages_conformance
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . && /opt/build/bin/python -m pip --python /opt/proxy/bin/python install --no-cache-dir --no-deps --no-index --find-links /opt/build/wheels anthropic-proxy
RUN /opt/build/bin/python -m cyclonedx_py environment --output-reproducible -o /opt/proxy/sbom.json /opt/proxy/bin/python

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/proxy /opt/proxy
WORKDIR /app
COPY server.py ./
COPY app app
# The ledger. Mount a volume here to keep it; everything else can be read-only.
RUN install -d -m 0750 -o 65532 -g 65532 /data
# The port mapping restricts access to the container, so the proxy has to accept clients that are not on loopback.
ENV PATH=/opt/proxy/bin:$PATH \
    HOME=/app \
    ANTHROPIC_PROXY_CONFIG=/app \
    XDG_DATA_HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ALLOW_UNAUTHENTICATED=true
USER 65532:65532
EXPOSE 8082
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["anthropic-proxy", "health", "--alive"]
CMD ["anthropic-proxy", "serve", "--host", "0.0.0.0"]
