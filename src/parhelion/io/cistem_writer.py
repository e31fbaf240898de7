"""Writing of particle tables for cisTEM and FREALIGN, whose columns are the same quantities."""

from pathlib import Path

import numpy as np

from parhelion.geometry import rotations
from parhelion.io.atomic import atomic_path
from parhelion.io.exchange import SCORES, check_expressible, comment_lines, notes_on_losses, stack_texts
from parhelion.io.relion_optics import numbers
from parhelion.model.particles import ParticleSet

LAYOUT = (
    ("PositionInStack", "%8i"),
    ("AnglePsi", "%9.4f"),
    ("AngleTheta", "%9.4f"),
    ("AnglePhi", "%9.4f"),
    ("XShift", "%11.4f"),
    ("YShift", "%11.4f"),
    ("Defocus1", "%9.2f"),
    ("Defocus2", "%9.2f"),
    ("DefocusAngle", "%8.3f"),
    ("PhaseShift", "%9.6f"),
    ("ImageActivity", "%5i"),
    ("Occupancy", "%7.2f"),
    ("LogP", "%9i"),
    ("Sigma", "%10.4f"),
    ("Score", "%7.2f"),
    ("ScoreChange", "%7.2f"),
    ("PixelSize", "%9.6f"),
    ("MicroscopeVoltagekV", "%7.2f"),
    ("MicroscopeCsMM", "%7.3f"),
    ("AmplitudeContrast", "%7.4f"),
    ("BeamTiltX", "%9.6f"),
    ("BeamTiltY", "%9.6f"),
    ("ImageShiftX", "%7.3f"),
    ("ImageShiftY", "%7.3f"),
    ("Best2DClass", "%5i"),
    ("BeamTiltGroup", "%5i"),
    ("StackFilename", "'%s'"),
    ("OriginalImageFilename", "'%s'"),
    ("Reference3DFilename", "'%s'"),
    ("ParticleGroup", "%8i"),
    ("AssignedSubset", "%8i"),
    ("PreExposure", "%7.2f"),
    ("TotalExposure", "%7.2f"),
    ("OriginalXPosition", "%9.2f"),
    ("OriginalYPosition", "%9.2f"),
)
"""cisTEM's columns in its order; the file is free format, and more digits than its own survive there."""
CARRIED = {"ParticleGroup": 1, "PreExposure": 0, "TotalExposure": 0, "OriginalXPosition": 0}
CARRIED |= {"OriginalYPosition": 0, "BeamTiltGroup": 1}
"""Columns that come back from the input where it had them, and their neutral values."""
PROGRAM = "cisTEM"


def write_cistem(path: Path | str, particles: ParticleSet, notes: list[str] | None = None) -> None:
    """Write ``particles`` as cisTEM's STAR file, whole or not at all; ``notes`` collects what is left out.

    Raises MetadataError for what cisTEM's tables cannot express, OutputError where the file cannot be
    written.
    """
    path = Path(path)
    columns = cistem_table(path, particles, notes if notes is not None else [])
    lines = [
        f"# {line}"
        for line in ("Written by parhelion", *comment_lines(particles, str(columns["StackFilename"][0])))
    ]
    lines += ["", "data_", "", "loop_"]
    lines += [f"_cisTEM{label} #{i}" for i, (label, _) in enumerate(LAYOUT, 1)]
    write_rows(path, lines, [columns[label] for label, _ in LAYOUT], " ".join(form for _, form in LAYOUT))


def cistem_table(path: Path, particles: ParticleSet, notes: list[str]) -> dict[str, np.ndarray]:
    """Every column of a cisTEM table at ``path`` by its name without prefix; ``notes`` gets what is left out.

    Raises MetadataError for what such a table cannot express.
    """
    check_expressible(path, particles, PROGRAM, carried=("beam tilt",))
    views = particles.views
    texts = stack_texts(path, views.image_path)
    used = np.unique(views.path_id).tolist()
    notes += notes_on_losses(path, particles, PROGRAM)
    if len(used) > 1:
        notes.append(
            f"{path.name}: the images lie in {len(used)} stacks, while cisTEM's programs take one; "
            "--new-stack writes it"
        )
    columns = cistem_columns(path, particles)
    columns |= _optics(particles)
    zero = np.zeros(len(particles))
    columns |= dict.fromkeys(("ImageShiftX", "ImageShiftY"), zero)
    tilt = np.array([group.beam_tilt_xy_mrad for group in particles.optics])[views.optics_group]
    columns |= {"BeamTiltX": tilt[:, 0], "BeamTiltY": tilt[:, 1]}
    columns["ImageActivity"] = np.ones(len(particles), np.int64)
    columns["StackFilename"] = np.array(texts, dtype=object)[views.path_id]
    blank = np.full(len(particles), "", dtype=object)
    columns["OriginalImageFilename"] = np.asarray(particles.extra.get("rlnMicrographName", blank))
    columns["Reference3DFilename"] = np.asarray(particles.extra.get("cisTEMReference3DFilename", blank))
    classes, half = particles.class_number, particles.half
    columns["Best2DClass"] = zero.astype(np.int64) if classes is None else classes
    columns["AssignedSubset"] = zero.astype(np.int64) if half is None else half
    columns |= {label: carried(path, particles, f"cisTEM{label}", n) for label, n in CARRIED.items()}
    if tilt.any() and "cisTEMBeamTiltGroup" not in particles.extra:
        columns["BeamTiltGroup"] = np.unique(tilt, axis=0, return_inverse=True)[1].reshape(-1) + 1
    return columns


def cistem_columns(path: Path, particles: ParticleSet) -> dict[str, np.ndarray]:
    """Position, pose, CTF and scores by cisTEM's names without its prefix; angles in 0 … 360 degrees.

    Particles without poses get angles and shifts of 0.
    """
    views, count = particles.views, len(particles)
    angles, shift = np.zeros((count, 3)), np.zeros((count, 3))
    if particles.rotation is not None and particles.shift_xyz_angstrom is not None:
        angles = np.mod(rotations.to_frealign(particles.rotation), 360.0)
        # + 0.0: no negative zeros in the file
        shift = 0.0 - particles.shift_xyz_angstrom + 0.0
    columns = {
        "PositionInStack": views.image_index + 1,
        "AnglePsi": angles[:, 2],
        "AngleTheta": angles[:, 1],
        "AnglePhi": angles[:, 0],
        "XShift": shift[:, 0],
        "YShift": shift[:, 1],
        "Defocus1": views.defocus_u_angstrom,
        "Defocus2": views.defocus_v_angstrom,
        "DefocusAngle": views.defocus_angle_deg,
        "PhaseShift": np.radians(views.phase_shift_deg),
    }
    for label, neutral in SCORES.items():
        columns[label.removeprefix("cisTEM")] = carried(path, particles, label, neutral)
    return columns


def carried(path: Path, particles: ParticleSet, label: str, neutral: float) -> np.ndarray:
    """A column of numbers that the input had, ``neutral`` where it lacked one. Raises MetadataError."""
    if label not in particles.extra:
        return np.full(len(particles), neutral)
    return np.nan_to_num(numbers(path, particles.extra, label), nan=neutral, posinf=neutral, neginf=neutral)


def _optics(particles: ParticleSet) -> dict[str, np.ndarray]:
    group = particles.views.optics_group
    names = {
        "PixelSize": "pixel_size_angstrom",
        "MicroscopeVoltagekV": "voltage_kv",
        "MicroscopeCsMM": "spherical_aberration_mm",
        "AmplitudeContrast": "amplitude_contrast",
    }
    return {
        label: np.array([getattr(g, name) for g in particles.optics])[group] for label, name in names.items()
    }


def write_rows(path: Path, head: list[str], columns: list[np.ndarray], form: str) -> None:
    """Write lines and then rows, each the printf-like ``form`` of one value per column, as one file."""
    with atomic_path(path) as partial, partial.open("x", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in head)
        rows = zip(*(column.tolist() for column in columns))
        stream.writelines(f"{form % row}\n" for row in rows)
