# The gateway, and the nightly training job: both are this repository and its pinned requirements.
#   docker build -f deploy/gateway.Dockerfile -t triptych-gateway:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# OpenMP's runtime, which LightGBM links and the slim image lacks: without it a night cannot grow the ranker's trees.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

# The requirements first: they change seldom, and their layer is the large one.
COPY requirements.txt requirements-encoders.txt ./
RUN python -m pip install -r requirements.txt && python -m pip install --no-deps -r requirements-encoders.txt

COPY data data
COPY towers towers
COPY ranking ranking
COPY serving serving
COPY pipeline pipeline
COPY configs configs
COPY deploy deploy

# A number, because Kubernetes checks runAsNonRoot by number.
RUN useradd --uid 10001 --create-home triptych && mkdir /run-folder /dataset /state && chown 10001 /state
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
CMD ["python", "-m", "serving.gateway_server", "--config", "/etc/triptych/gateway.toml"]
