"""
What the board holds.
"""

from django.db import models


class Task(models.Model):
    """
    A thing to do.
    """

    title = models.CharField(max_length=200)
    is_done = models.BooleanField(default=False)
    is_public = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.title
