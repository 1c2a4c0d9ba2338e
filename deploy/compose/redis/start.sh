#!/bin/sh
# The password goes into an ACL file in memory, not on the command line, where `ps` shows it.
set -eu
acl="${REDIS_ACL:-/run/redis/users.acl}"
umask 077
cat >"$acl" <<ACL
user default off
user community on >$REDIS_PASSWORD ~araponga:* resetchannels &araponga:* +@read +@write +@scripting +@pubsub +@connection +info +time +scan
ACL
exec redis-server "${REDIS_CONF:-/etc/redis/redis.conf}" --aclfile "$acl" "$@"
