"""
Logs and metrics: their names and how they leave.
"""
