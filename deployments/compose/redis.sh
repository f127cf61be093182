#!/bin/sh
# Starts Redis with the project's redis.conf and the password of a secret, which is never an argument.
set -eu
secret=/run/secrets/redis_password
if [ ! -s "$secret" ]; then
    echo "coinswarm: $secret is missing or empty. Make the secrets with deployments/compose/make-secrets." >&2
    exit 78
fi
password=$(cat "$secret")
case $password in
*[!A-Za-z0-9._~-]*)
    echo "coinswarm: $secret may hold letters, digits and . _ ~ - only, in one line." >&2
    exit 78
    ;;
esac
own=/run/coinswarm/redis.conf
(
    umask 077
    # Copied, not included: Redis reads its own file as a user who may not be able to read the mounted one.
    cp /usr/local/etc/redis/redis.conf "$own"
    cat >>"$own" <<END
bind * -::*
dir /data
maxmemory ${REDIS_MAXMEMORY:-4gb}
requirepass $password
END
)
if [ "$(id -u)" = 0 ]; then chown redis "$own"; fi
# The image's own entry point loads the search module, where its first argument is redis-server.
exec docker-entrypoint.sh redis-server "$own"
