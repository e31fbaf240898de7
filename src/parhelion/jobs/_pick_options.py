"""The options of ``pick``, and which of them belong to which method."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from parhelion.jobs._inputs import File, Files, MapFile, Symmetry
from parhelion.jobs._micrographs import (
    MicrographFiles,
    amplitude_contrast_option,
    cs_option,
    pixel_size_option,
    voltage_option,
)
from parhelion.registry import JobParams, option

SEARCH, BACKGROUND, REFUSE, TEMPLATES, IMPORT, MICROSCOPE = (
    "Search",
    "Background",
    "What is refused",
    "Templates",
    "Import",
    "Micrographs",
)
RESOLUTION = {"blob": 30.0, "gaussian": 30.0, "noise": 30.0, "template": 20.0}
ONLY_FOR = {
    "characteristic_radius": ("blob", "gaussian", "template"),
    "radius_range": ("blob",),
    "threshold": ("blob", "gaussian", "template"),
    "highest_resolution": ("blob", "gaussian", "template", "noise"),
    "ctf": ("blob", "template"),
    "contrast": ("blob", "gaussian", "template"),
    "background_boxes": ("blob", "gaussian", "template", "noise"),
    "background": ("blob", "gaussian", "template", "noise"),
    "avoid_high_variance": ("blob", "gaussian", "template"),
    "avoid_abnormal_means": ("blob", "gaussian", "template"),
    "reject_large": ("blob",),
    "min_edge_distance": ("blob", "gaussian", "template"),
    "limit": ("blob", "gaussian", "template"),
    "mask": ("blob", "gaussian", "template", "noise"),
    "mask_threshold": ("blob", "gaussian", "template", "noise"),
    "reference": ("template",),
    "templates": ("template",),
    "template_pixel_size": ("template",),
    "template_contrast": ("template",),
    "symmetry": ("template",),
    "angular_step": ("template",),
    "rotations": ("template",),
    "radial_average": ("template",),
    "coordinates": ("import",),
    "duplicate_distance": ("import",),
}
"""Options that belong to some methods; with another one they are refused instead of ignored."""
FROM_MAP = ("symmetry", "angular_step")


class Params(JobParams):
    """What the job takes."""

    input: MicrographFiles = option(help="table of micrographs with their CTF, or image files", short="i")
    method: Literal["blob", "template", "gaussian", "noise", "import"] = option(
        "blob",
        help="matched filter of a soft disc, templates, Gaussian blob, boxes of noise, or import",
    )
    maximum_radius: float = option(
        120.0,
        help="distance of the particle's farthest parts from its centre, and smallest distance of two picks",
        unit="Å",
        ge=5,
        le=3000,
    )
    characteristic_radius: float = option(
        80.0,
        help="radius of the particle's body: of the disc where it has fallen to one half",
        unit="Å",
        ge=5,
        le=3000,
        group=SEARCH,
    )
    radius_range: tuple[Annotated[float, Field(ge=5)], Annotated[float, Field(le=3000)]] | None = option(
        None,
        help="try discs of radii from the one to the other instead of the characteristic radius",
        unit="Å",
        default_text="one radius",
        group=SEARCH,
    )
    threshold: float = option(
        5.0,
        help="lowest peak that is picked, in standard deviations of the noise; 6 for fewer and surer ones",
        unit="1",
        ge=1,
        le=100,
        group=SEARCH,
    )
    highest_resolution: float | None = option(
        None,
        help="finest detail used; the picking pixel is half of it",
        unit="Å",
        ge=4,
        le=200,
        default_text="30, with templates 20",
        group=SEARCH,
    )
    ctf: bool = option(True, help="modulate disc or templates by the micrograph's CTF", group=SEARCH)
    contrast: Literal["auto", "white", "black"] = option(
        "auto",
        help="how protein looks in the micrographs; auto looks for blobs of either in some of them",
        group=SEARCH,
    )
    background_boxes: int = option(
        50, help="background boxes, two maximum radii wide", unit="boxes", ge=1, le=999, group=BACKGROUND
    )
    background: Literal["lowest-variance", "near-mode"] = option(
        "lowest-variance",
        help="boxes of least local variance, or of a variance near the most frequent one",
        group=BACKGROUND,
    )
    avoid_high_variance: bool = option(
        False,
        help="refuse peaks whose local variance is far above that of the others (edges of carbon); not for "
        "images of strong contrast",
        group=REFUSE,
    )
    avoid_abnormal_means: bool = option(
        True, help="refuse large dark areas and peaks whose local mean is unlike the others'", group=REFUSE
    )
    reject_large: bool = option(
        True, help="refuse blobs that answer to a disc of 1.5 maximum radii nearly as well", group=REFUSE
    )
    min_edge_distance: int | None = option(
        None,
        help="smallest distance of picks from the edges, for example 128",
        unit="pixels",
        ge=0,
        le=10000,
        default_text="the maximum radius",
        group=REFUSE,
    )
    limit: int | None = option(
        None,
        help="keep at most this many particles of each micrograph, the best ones",
        unit="particles",
        ge=1,
        default_text="all are kept",
        group=REFUSE,
    )
    mask: Files | None = option(
        None,
        help="what to avoid: probabilities of contamination (0 to 1) over each micrograph, at any binning: "
        "one for all, or named like their micrographs",
        default_text="none",
        group=REFUSE,
    )
    mask_threshold: float = option(
        0.5, help="avoid what --mask gives a higher probability", unit="1", ge=0, le=1, group=REFUSE
    )
    reference: MapFile | None = option(
        None, help="map whose projections are looked for", default_text="none", group=TEMPLATES
    )
    templates: File | None = option(
        None, help="stack of class averages to look for", default_text="none", group=TEMPLATES
    )
    template_pixel_size: float | None = option(
        None,
        help="pixel size of map or stack, where its header is wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the header",
        group=TEMPLATES,
    )
    template_contrast: Literal["white", "black"] = option(
        "white", help="how protein looks in map or stack", group=TEMPLATES
    )
    symmetry: Symmetry = option(
        "C1", help="point group of the map; its asymmetric unit is searched", group=TEMPLATES
    )
    angular_step: float = option(
        30.0,
        help="largest angle between neighbouring projections of the map",
        unit="degrees",
        ge=3,
        le=90,
        group=TEMPLATES,
    )
    rotations: int = option(
        36, help="turns of each template in the plane", unit="turns", ge=1, le=360, group=TEMPLATES
    )
    radial_average: bool = option(
        False, help="average each template over circles, and do not turn it", group=TEMPLATES
    )
    coordinates: Files | None = option(
        None,
        help="runs to join: STAR (one table, or one per micrograph), cisTEM text, .box, SPIDER document, CSV",
        default_text="none",
        group=IMPORT,
    )
    duplicate_distance: float = option(
        20.0,
        help="positions this near to each other are one particle; of several, the one of highest merit stays",
        unit="Å",
        ge=0,
        le=3000,
        group=IMPORT,
    )
    pictures: int = option(
        100,
        help="draw the particles of this many micrographs, evenly chosen",
        unit="pictures",
        ge=0,
        le=1000000,
    )
    pixel_size: float | None = pixel_size_option(MICROSCOPE)
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)

    @model_validator(mode="after")
    def _belong_together(self) -> "Params":
        for name in sorted(self.model_fields_set & ONLY_FOR.keys()):
            if self.method not in ONLY_FOR[name]:
                flag = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{flag} is not used by --method {self.method}, but by {', '.join(ONLY_FOR[name])}"
                )
        if self.method == "template" and (self.reference is None) == (self.templates is None):
            raise ValueError("--method template needs --reference, a map, or --templates, class averages")
        if self.templates is not None and self.model_fields_set & set(FROM_MAP):
            raise ValueError("--symmetry and --angular-step belong to a map given by --reference")
        if self.radial_average and "rotations" in self.model_fields_set:
            raise ValueError("templates averaged over circles are not turned: leave out --rotations")
        if self.method == "import" and self.coordinates is None:
            raise ValueError("--method import needs --coordinates, the files to take them from")
        if "mask_threshold" in self.model_fields_set and self.mask is None:
            raise ValueError("--mask-threshold belongs to --mask")
        self._check_radii()
        return self

    def _check_radii(self) -> None:
        if "radius_range" in self.model_fields_set and "characteristic_radius" in self.model_fields_set:
            raise ValueError("--radius-range replaces --characteristic-radius; give one of them")
        low, high = self.radius_range or (self.characteristic_radius,) * 2
        if not low <= high:
            raise ValueError(f"--radius-range: the lower radius comes first, found {low:g} {high:g}")
        if self.method in ("blob", "gaussian") and high > self.maximum_radius:
            raise ValueError(
                f"a radius of {high:g} Å is larger than --maximum-radius, {self.maximum_radius:g} Å; the "
                "maximum radius reaches to the particle's farthest parts"
            )
