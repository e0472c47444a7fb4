"""
The page, and what its buttons do.
"""

from django.db.models import Case, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from board.models import Task


def index(request: HttpRequest) -> HttpResponse:
    """
    Show the page; it fetches the rows by itself.
    """
    return render(request, "board/index.html")


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """
    Add a task; the page learns of it as every other one does.
    """
    Task.objects.create(title=request.POST["title"])
    return HttpResponse(status=204)


@require_POST
def toggle(_request: HttpRequest, number: int) -> HttpResponse:
    """
    Have a task done, or not.
    """
    Task.objects.filter(id=number).update(is_done=Case(When(is_done=True, then=Value(False)), default=Value(True)))
    return HttpResponse(status=204)
