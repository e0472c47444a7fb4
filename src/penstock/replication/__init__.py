"""
From the replication connection to transactions, and the standby status back to Postgres.
"""
