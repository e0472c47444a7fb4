"""
Who may read what.
"""

from django.db.models import QuerySet
from django.http import HttpRequest

from board.models import Task
from penstock import RequestedShape


def authorize(request: HttpRequest, shape: RequestedShape) -> QuerySet[Task] | None:
    """
    Everybody sees what is public, and whoever has logged in sees all.
    """
    if shape.table != "board_task":
        return None
    tasks = Task.objects.all() if request.user.is_authenticated else Task.objects.filter(is_public=True)
    return tasks.only("title", "is_done")
