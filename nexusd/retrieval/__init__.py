"""Finding memories again: keyword and vector candidates, their fusion, and context packages."""
