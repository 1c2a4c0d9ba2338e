"""A process that only handles events.

From the command line no code is needed, and this goes into the Dockerfile:

    araponga-infra events run community.handlers:router --concurrency 20
    araponga-infra health --ready                # exec probe of the same container: exit status 0 or 1

MODULE:NAME is a router, a processor, an (Async)Infrastructure, or a function without arguments that makes one (as
uvicorn --factory). A router is enough: stores come from the ARAPONGA_* variables. In code, when a worker needs more:
"""

from araponga_infra.cli import run_worker
from community.handlers import router

if __name__ == "__main__":
    # SIGTERM: drain for `grace`, give back, exit 0; SIGINT twice: at once
    run_worker(routers=[router], max_concurrency=20)
