"""
The relay log: the replication stream, durable and verbatim, between the receiver and the engine.
"""
