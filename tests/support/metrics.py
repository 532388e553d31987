"""Pages of metrics as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families


def samples(page: bytes | str) -> dict[str, float]:
    """Every sample of a page by its name and labels, as in `requests_total{code="200"}`; the labels in the order of
    their names. ValueError when the page is none, and AssertionError when it says a thing twice."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page if isinstance(page, str) else page.decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, key
            found[key] = sample.value
    return found
