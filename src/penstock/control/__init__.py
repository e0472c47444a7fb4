"""
What must be true after a crash: catalog of shapes, recorded boundary, epoch, tombstones, facts.
"""
