#!/bin/bash
# Run once, by the image of the primary, when its data folder is new: three roles, none of them a superuser.
set -euo pipefail

psql -v ON_ERROR_STOP=1 --username postgres --dbname community \
    -v app="$APP_PASSWORD" -v reader="$READER_PASSWORD" -v replication="$REPLICATION_PASSWORD" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app';
GRANT CREATE, USAGE ON SCHEMA public TO app;

CREATE ROLE reader LOGIN PASSWORD :'reader';
ALTER ROLE reader SET default_transaction_read_only = on;
ALTER ROLE reader SET idle_in_transaction_session_timeout = '60s';
GRANT pg_read_all_data TO reader;

CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication';
SELECT pg_create_physical_replication_slot('standby');
SQL

echo "host replication replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"
