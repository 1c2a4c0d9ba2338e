"""A page for the people who run the service, at /ops: off unless COMMUNITY_OPS_TOKEN is set."""

from .page import OpsPage
from .roll_call import RollCall

__all__ = ["OpsPage", "RollCall"]
