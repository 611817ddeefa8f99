"""The pages of the documentation. ``make docs`` builds the site from them; ``python -m docs`` makes
anew what is made in them: tables, charts and the picture of the architecture."""
