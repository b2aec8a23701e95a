# docker build -t fna .                                                                     for CPU
# docker build -t fna --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg INDEX=cu130 .   for NVIDIA GPUs
# docker run --rm -v "$PWD:/data" fna run leaves.yaml --run runs/leaves                     (GPUs: --gpus all --shm-size 8g)
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG INDEX=cpu
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/fna
ENV PATH=/opt/fna/bin:$PATH
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${INDEX}
COPY pyproject.toml README.md LICENSE /src/
COPY fna /src/fna
RUN pip install --no-cache-dir "/src[export,hub,mat,seeds,tensorboard]"
WORKDIR /data
ENTRYPOINT ["fna"]
CMD ["--help"]
