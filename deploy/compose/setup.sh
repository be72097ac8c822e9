#!/bin/sh
# One shot, safe to repeat: Vault as the settings say, then every service's migrations. Leaves each service its AppRole
# files in the volume that only that service mounts.
set -eu
files=/run/files
counterseal vault setup --config /etc/counterseal/vault.toml --address https://openbao:8200 --ca-file "$files/ca.pem" \
  --role-id-file "$files/operator-role-id" --secret-id-file "$files/operator-secret-id"
for service in policy credentials audit executor; do
  "counterseal-$service" migrate --config "/etc/counterseal/config/$service.toml"
done
