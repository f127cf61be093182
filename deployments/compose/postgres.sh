#!/bin/sh
# Runs once, in an empty data folder: a database and an owner for the ledger, and others for Prefect. Neither may enter
# the other's. psql reads the passwords itself: they are in no argument and no environment.
set -eu
for secret in ledger_password prefect_db_password; do
    if [ ! -s "${SECRETS:=/run/secrets}/$secret" ]; then
        echo "coinswarm: $SECRETS/$secret is missing or empty. Make the secrets with deployments/compose/make-secrets." >&2
        exit 78
    fi
done
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<END
\\set ledger \`cat $SECRETS/ledger_password\`
\\set prefect \`cat $SECRETS/prefect_db_password\`
CREATE ROLE coinswarm LOGIN PASSWORD :'ledger';
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE coinswarm OWNER coinswarm;
CREATE DATABASE prefect OWNER prefect;
REVOKE ALL ON DATABASE coinswarm, prefect FROM PUBLIC;
END
