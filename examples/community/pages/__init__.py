"""Pages for people, rendered on the server."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from ..api.dependencies import CachedAgendas, CachedMaps, Reading
from ..api.feed import page
from ..queries import LARGEST_ID
from ..queries import territories as territories_after

router = APIRouter(include_in_schema=False)
templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


@router.get("/", response_class=HTMLResponse)
async def home(
    request: Request,
    reads: Reading,
    agendas: CachedAgendas,
    maps: CachedMaps,
    territory: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
) -> str:
    territories = await reads.all(territories_after())
    chosen = next((each for each in territories if each.id == territory), territories[0] if territories else None)
    return templates.get_template("home.html").render(
        instance=request.app.state.settings.instance,
        address=str(request.base_url).rstrip("/"),
        territories=territories,
        chosen=chosen,
        posts=(await page(reads, territory_id=chosen.id)).items if chosen else [],
        events=await agendas.of(chosen.id) if chosen else (),
        places=await maps.of(chosen.id) if chosen else (),
    )
