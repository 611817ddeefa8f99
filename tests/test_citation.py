"""CITATION.cff follows the Citation File Format 1.2.0."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import seqkern

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {"authors", "cff-version", "message", "title"}
# What the schema knows besides, and what of an author who is an entity or a person.
OPTIONAL = {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license",
    "license-url", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "type", "url", "version",
}  # fmt: skip
ENTITY = {
    "address", "alias", "city", "country", "date-end", "date-start", "email", "fax", "location",
    "name", "orcid", "post-code", "region", "tel", "website",
}  # fmt: skip
PERSON = (ENTITY - {"name", "date-end", "date-start", "location"}) | {
    "affiliation", "family-names", "given-names", "name-particle", "name-suffix",
}  # fmt: skip


def test_citation() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    citation = yaml.safe_load(text)
    assert citation.keys() >= REQUIRED
    assert citation.keys() <= REQUIRED | OPTIONAL
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert citation["version"] == seqkern.__version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text()
    for author in citation["authors"]:
        assert author.keys() <= (ENTITY if "name" in author else PERSON)
        assert author.get("name") or author.get("family-names")
    keywords = citation["keywords"]
    assert len(keywords) == len(set(keywords)) and all(isinstance(word, str) for word in keywords)
    assert not re.search(r"\t", text)
