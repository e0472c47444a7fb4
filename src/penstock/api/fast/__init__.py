"""
The short way of requests for shapes: from the socket to the dialogue and back, without a task for each of them.
"""
