# One image for the four services and their set-up; the command says which. Debian, since cel-expr-python has no musl
# wheel. Nothing of the embedded stack is inside: PostgreSQL and OpenBao are containers or servers of their own.
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/counterseal \
 && /opt/counterseal/bin/pip install --no-cache-dir --disable-pip-version-check '.[policy,credentials,audit,executor,otel]'

FROM python:3.11.13-slim-bookworm
RUN groupadd --gid 10001 counterseal \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin counterseal
COPY --from=build /opt/counterseal /opt/counterseal
COPY deploy/compose /etc/counterseal
ENV PATH=/opt/counterseal/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
# SIGTERM drains: open calls get their time, then the process ends with 0.
STOPSIGNAL SIGTERM
CMD ["counterseal", "--help"]
