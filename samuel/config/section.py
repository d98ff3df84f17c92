"""What every group of settings has in common."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Pause = Annotated[float, Field(ge=0, le=3600)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "under",
}


def for_a_form(schema: dict[str, Any]) -> None:
    """Titles with units, and descriptions with bounds: a form shows nothing else of a setting."""
    for name, field in schema.get("properties", {}).items():
        words = name.removesuffix("_s").replace("_", " ")
        field["title"] = words.capitalize() + (" (seconds)" if name.endswith("_s") else "")
        if "description" in field and (bounds := _bounds(field)):
            field["description"] += f" ({bounds})"


def _bounds(field: dict[str, Any]) -> str:
    """In words; of a setting that may be left out, those of its value."""
    value = next((kind for kind in field.get("anyOf", []) if kind.get("type") != "null"), field)
    return ", ".join(f"{words} {value[key]:,}" for key, words in BOUNDS.items() if key in value)


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        json_schema_extra=for_a_form,
    )
