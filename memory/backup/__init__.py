"""Snapshots of a whole memory: taken while agents go on, restored under any name, on any servers.

`manifest` says what a snapshot is; `capture` and `ledger_dump` write one, `refill` and `ledger_load` read it back;
`rows` holds what lies in Redis, key by key, as Parquet.
"""
