"""
The tasks of teams: a FastAPI application whose page is live.

Reading is one route, which says whose rows somebody may see and lets Penstock answer. Writing is what it always was.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import jwt
import psycopg
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

import penstock
from penstock import Allow

DATABASE_URL = os.environ["DATABASE_URL"]
TOKEN_SECRET = os.environ.get("BOARD_SECRET") or secrets.token_hex(32)
TOKEN_LIFE_S = 3600
PAGE = Path(__file__).parent / "page" / "dist"
TEAMS = {"ada": "engine", "grace": "engine", "bob": "kitchen"}
"""Who is in which team; a real application would ask its database."""

sync = penstock.asgi(DATABASE_URL, data_dir=os.environ.get("BOARD_FOLDER", "persistent"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """
    Penstock starts and ends with the application.
    """
    async with sync.running():
        yield


app = FastAPI(title="Board", lifespan=lifespan)


# --- who asks --------------------------------------------------------------------------------------------------------


class Login(BaseModel):
    """
    A name will do here: this is about what comes after logging in.
    """

    name: str


@app.post("/login")
async def log_in(login: Login) -> dict[str, str]:
    """
    Give a token for a name.
    """
    if login.name not in TEAMS:
        raise HTTPException(401, "nobody of this name is here")
    claims = {"sub": login.name, "exp": time.time() + TOKEN_LIFE_S}
    return {"token": jwt.encode(claims, TOKEN_SECRET, "HS256"), "team": TEAMS[login.name]}


def current_team(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    """
    Find out whose token it is, and give that person's team.
    """
    try:
        claims = jwt.decode(bearer.credentials, TOKEN_SECRET, ["HS256"])
        return TEAMS[claims["sub"]]
    except (jwt.InvalidTokenError, KeyError) as error:
        raise HTTPException(401, "log in again") from error


Team = Annotated[str, Depends(current_team)]


# --- reading, live ---------------------------------------------------------------------------------------------------


@app.get("/v1/tasks")
async def read_tasks(team: Team) -> Response:
    """
    The tasks of one's own team, without the notes that are nobody's business. The page may ask for fewer, never for more.
    """
    return sync.respond(Allow(where="team = $1", params=[team], columns=["id", "team", "title", "done"]), table="tasks")


# --- writing ---------------------------------------------------------------------------------------------------------


class NewTask(BaseModel):
    """
    What is to be done.
    """

    title: str


class Change(BaseModel):
    """
    Whether it is done.
    """

    done: bool


@app.post("/tasks", status_code=201)
async def add_task(task: NewTask, team: Team) -> None:
    """
    Add a task to one's team.
    """
    async with await psycopg.AsyncConnection.connect(DATABASE_URL, autocommit=True) as connection:
        await connection.execute("INSERT INTO tasks (team, title) VALUES (%s, %s)", (team, task.title))


@app.patch("/tasks/{number}", status_code=204)
async def change_task(number: int, change: Change, team: Team) -> None:
    """
    Tick a task of one's team off, or on again.
    """
    async with await psycopg.AsyncConnection.connect(DATABASE_URL, autocommit=True) as connection:
        await connection.execute("UPDATE tasks SET done = %s WHERE id = %s AND team = %s", (change.done, number, team))


if PAGE.is_dir():
    app.mount("/", StaticFiles(directory=PAGE, html=True))
