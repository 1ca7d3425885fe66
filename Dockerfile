# One image for all roles; compose.yaml says which one a container is.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY domain domain
COPY handlers handlers
COPY projections projections
COPY bus bus
COPY adapters adapters
COPY labledger labledger
RUN python -m venv /opt/labledger && \
    /opt/labledger/bin/pip install --no-cache-dir --constraint constraints.txt '.[instruments,parquet,artifacts,curves,spice,delivery,fast]'

FROM python:3.12-slim
RUN useradd --system --create-home --home-dir /var/lib/labledger labledger
COPY --from=build /opt/labledger /opt/labledger
ENV PATH=/opt/labledger/bin:$PATH LABLEDGER_DATA_DIR=/var/lib/labledger
USER labledger
WORKDIR /var/lib/labledger
ENTRYPOINT ["labledger"]
CMD ["--help"]
