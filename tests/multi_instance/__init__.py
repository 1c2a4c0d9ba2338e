"""The community API on three instances behind nginx, under load, while its servers have their bad days.

`ledger` keeps what clients were told, `load` are the clients, `processes` and `cluster` what serves them, `faults` what
goes wrong, `run` plays one after the other, `state` and `connections` are what the servers say, `report` shows it all.
`with_nginx.py` holds the promises: `nox -s multi_instance`.
"""
