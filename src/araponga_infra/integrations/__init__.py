"""Web frameworks: `araponga_infra.integrations.fastapi`, `.starlette` and `.flask`, each imported by its own name."""

__all__: list[str] = []
