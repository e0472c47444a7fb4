"""
The language of conditions: Postgres's own grammar and types, checked, written back, evaluated on rows. Pure.
"""
