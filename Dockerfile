# syntax=docker/dockerfile:1
# One image for migrate, worker, beat, serve and Flower; docker-compose.yml says which, and how to check it.

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/statesync
COPY . .
RUN /opt/statesync/bin/pip install --no-cache-dir '.[web]'

FROM python:3.12-slim
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /home/statesync statesync
COPY --from=build /opt/statesync /opt/statesync
ENV PATH=/opt/statesync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER statesync
WORKDIR /home/statesync
# Replaces settings of Celery; its first line is why it is used.
COPY celeryconfig.py .
CMD ["celery", "-A", "statesync", "worker", "--loglevel", "INFO"]
