#!/bin/bash
# A standby copies the primary when its data folder is empty, and follows it ever after.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    pg_basebackup --host "${PRIMARY_HOST:-primary}" --username replication --pgdata "$PGDATA" \
        --slot standby --wal-method stream --write-recovery-conf --checkpoint fast
    chmod 0700 "$PGDATA"
fi
exec postgres -c config_file="${STANDBY_CONF:-/etc/postgresql/standby.conf}" "$@"
