"""
Values of Postgres: positions, transaction ids, snapshots, tables. Pure.
"""
