FROM python:3.12-slim AS build
WORKDIR /src
COPY locks/runtime.lock locks/build.lock locks/extra-fetch.lock locks/extra-vertex.lock locks/
RUN python3 -m venv /opt/build && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r locks/build.lock
RUN python3 -m venv --without-pip /opt/proxy && /opt/build/bin/python -m pip --python /opt/proxy/bin/python install --no-cache-dir --require-hashes -r locks/runtime.lock -r locks/extra-fetch.lock -r locks/extra-vertex.lock
COPY pyproject.toml README.md LICENSE ./
COPY anthropic_proxy anthropic_proxy
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . && /opt/build/bin/python -m pip --python /opt/proxy/bin/python install --no-cache-dir --no-deps --no-index --find-links /opt/build/wheels anthropic-proxy

FROM python:3.12-slim
COPY --from=build /opt/proxy /opt/proxy
WORKDIR /app
COPY server.py ./
COPY app app
# The port mapping restricts access to the container, so the proxy has to accept clients that are not on loopback.
ENV PATH=/opt/proxy/bin:$PATH \
    HOME=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ALLOW_UNAUTHENTICATED=true
USER 65532:65532
EXPOSE 8082
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["anthropic-proxy", "health"]
CMD ["anthropic-proxy", "serve", "--host", "0.0.0.0"]
