"""
Follows a shape over HTTP and keeps its rows.
"""
