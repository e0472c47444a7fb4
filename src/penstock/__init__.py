"""
Penstock: a Postgres sync engine that never holds your write-ahead log back.
"""
