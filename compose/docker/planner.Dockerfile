# syntax=docker/dockerfile:1
# The planner: says how many engines are wanted, and can have Kubernetes follow. Build from the repository's root.

FROM python:3.11.11-slim-bookworm AS build
RUN python -m venv /opt/sagellm
ENV PATH=/opt/sagellm/bin:$PATH
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip install -c constraints.txt ".[planner]"

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --create-home sagellm \
    && install -d -o sagellm -g sagellm /var/lib/sagellm/models
COPY --from=build /opt/sagellm /opt/sagellm
ENV PATH=/opt/sagellm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 9100
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=10 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=2)"]
CMD ["python", "-m", "sagellm_scheduler.planner"]
