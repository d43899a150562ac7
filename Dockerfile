# The page and the HTTP call, for a CPU, as an ordinary user:
#   docker build -t vmambair . && docker run --rm -p 127.0.0.1:7860:7860 vmambair
FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# For another build of torch: --build-arg TORCH='torch --index-url …'
ARG TORCH=torch
# hadolint ignore=DL3042,SC2086
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir $TORCH \
    && /venv/bin/pip install --no-cache-dir '.[web,heic,video]' \
    && /venv/bin/pip uninstall -y opencv-python \
    && /venv/bin/pip install --no-cache-dir opencv-python-headless

FROM python:3.12-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 vmambair
COPY --from=build /venv /venv
USER 10001:10001
WORKDIR /home/vmambair
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["vmambair", "web", "--host", "0.0.0.0", "--port", "7860"]
