# syntax=docker/dockerfile:1
# An engine: computes tokens. Build from the repository's root.
# For NVIDIA GPUs: --build-arg TORCH_INDEX=https://pypi.org/simple --build-arg EXTRAS=engine,nixl,cuda

FROM python:3.11.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=engine,nixl
# the compiler is for the CPU kernels, which are built with the package
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/sagellm
ENV PATH=/opt/sagellm/bin:$PATH
WORKDIR /src
COPY constraints.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip install -c constraints.txt ".[$EXTRAS]"

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --create-home sagellm \
    && install -d -o sagellm -g sagellm /var/lib/sagellm/models /var/lib/sagellm/cache
COPY --from=build /opt/sagellm /opt/sagellm
ENV PATH=/opt/sagellm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 9100
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=10 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=2)"]
CMD ["python", "-m", "sagellm_engine"]
