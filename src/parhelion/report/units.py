"""How a named value reads: ``resolution_angstrom`` 8.1234 becomes "Resolution", "8.12 Å"."""

UNITS = {
    "_rad_angstrom3": "rad Å³",
    "_rad_angstrom4": "rad Å⁴",
    "_mrad": "mrad",
    "_angstrom3": "Å³",
    "_angstrom2": "Å²",
    "_angstrom": "Å",
    "_deg": "°",
    "_kv": "kV",
    "_mm": "mm",
    "_um": "µm",
    "_kda": "kDa",
    "_seconds": "s",
    "_percent": "%",
    "_bytes": "bytes",
}
NOT_DETERMINED = "not determined"
KNOWN_SHORT = {"fsc": "FSC", "ctf": "CTF", "snr": "SNR", "cpu": "CPU", "bfactor": "B-factor"}


def split_unit(name: str) -> tuple[str, str]:
    """Readable name and unit of a value that is called ``name``; names of files stay as they are."""
    if "." in name:
        return name, ""
    unit = ""
    for suffix, symbol in UNITS.items():
        if name.endswith(suffix):
            name, unit = name.removesuffix(suffix), symbol
            break
    words = [KNOWN_SHORT.get(word, word) for word in name.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:], unit


def show_number(value: object) -> str:
    """A value with the digits a person needs."""
    if value is None:
        return NOT_DETERMINED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if value != value:
        return NOT_DETERMINED
    return (
        f"{value:,.0f}"
        if 10_000 <= abs(value) < 1e9
        else f"{value:.4g}"
        if abs(value) >= 1
        else f"{value:.3g}"
    )


def show_quantity(name: str, value: object) -> str:
    """The value of ``name`` with its unit."""
    unit = split_unit(name)[1]
    shown = show_number(value)
    if not unit or shown == NOT_DETERMINED:
        return shown
    if unit == "bytes" and isinstance(value, int | float):
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    return f"{shown}{'' if unit == '°' else ' '}{unit}"
