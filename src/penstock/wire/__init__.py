"""
The HTTP contract: names, messages, schema header, rows as JSON. Pure.
"""
