#!/bin/sh
# Makes, once, what has to exist before anything can start: a certificate authority for PostgreSQL, OpenBao and the
# collector (the services get theirs from OpenBao's PKI), passwords, and the key that unseals OpenBao.
# One folder per consumer under $1; each is a volume that only its consumer mounts. What exists is kept.
# Owners: $POSTGRES_UID and $OPENBAO_UID are those of the images, $SERVICE_UID is ours.
set -eu
umask 077
out=$1
POSTGRES_UID=${POSTGRES_UID:-999} OPENBAO_UID=${OPENBAO_UID:-100} COLLECTOR_UID=${COLLECTOR_UID:-10001}
SERVICE_UID=${SERVICE_UID:-10001}

secret() { # file: 256 random bits as text, without a newline: OpenBao takes the file as it is
  [ -s "$1" ] || openssl rand -hex 32 | tr -d '\n' >"$1"
}

certificate() { # folder, DNS name: key.pem, cert.pem and ca.pem
  cp "$out/authority/ca.pem" "$1/ca.pem"
  [ -s "$1/cert.pem" ] && return
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1/key.pem" -subj "/CN=$2" -out "$1/request.pem" 2>/dev/null
  printf 'subjectAltName=DNS:%s,DNS:localhost\nextendedKeyUsage=serverAuth\n' "$2" >"$1/extensions"
  openssl x509 -req -in "$1/request.pem" -CA "$out/authority/ca.pem" -CAkey "$out/authority/ca-key.pem" -CAcreateserial \
    -days 365 -sha256 -extfile "$1/extensions" -out "$1/cert.pem" 2>/dev/null
  rm "$1/request.pem" "$1/extensions"
}

for folder in authority postgres openbao collector setup policy credentials audit executor; do
  mkdir -p "$out/$folder"
done
if [ ! -s "$out/authority/ca.pem" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 \
    -subj "/CN=Counterseal compose infrastructure" -addext "basicConstraints=critical,CA:TRUE" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$out/authority/ca-key.pem" -out "$out/authority/ca.pem" 2>/dev/null
fi
for consumer in postgres openbao collector; do certificate "$out/$consumer" "$consumer"; done

secret "$out/postgres/superuser-password"
secret "$out/postgres/openbao-password"
for service in policy credentials audit executor; do
  secret "$out/postgres/$service-owner-password"
  cp "$out/postgres/$service-owner-password" "$out/setup/"
  cp "$out/authority/ca.pem" "$out/$service/infrastructure-ca.pem"
done
cp "$out/postgres/superuser-password" "$out/authority/ca.pem" "$out/setup/"
cp "$out/authority/ca.pem" "$out/setup/infrastructure-ca.pem"

[ -s "$out/openbao/seal-key" ] || openssl rand -out "$out/openbao/seal-key" 32
secret "$out/openbao/operator-secret-id"
printf 'counterseal-operator\n' >"$out/setup/operator-role-id"
cp "$out/openbao/operator-secret-id" "$out/setup/"
# OpenBao's configuration takes no password from a file, so the one that holds it is a secret itself.
sed "s|@STORAGE_PASSWORD@|$(cat "$out/postgres/openbao-password")|" "$(dirname "$0")/openbao.hcl" >"$out/openbao/openbao.hcl"

if [ "$(id -u)" = 0 ]; then
  chown -R "$POSTGRES_UID" "$out/postgres"
  chown -R "$OPENBAO_UID" "$out/openbao"
  chown -R "$COLLECTOR_UID" "$out/collector"
  for folder in setup policy credentials audit executor; do chown -R "$SERVICE_UID:$SERVICE_UID" "$out/$folder"; done
fi
