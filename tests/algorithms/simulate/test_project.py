"""Projections against sums over atoms and against RELION's own projections."""

import gemmi
import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.project import Projector
from parhelion.fourier.fft import irfft2
from parhelion.fourier.resample import fourier_resize_volumes, shift_images
from parhelion.geometry.rotations import from_relion

MOTT_BETHE = 47.87801


def write_model(path, seed=0, count=40, radius=30.0):
    """A random molecule of C, N, O, S and P atoms with B-factors from 10 to 60 Å²; returns its atoms."""
    rng = np.random.default_rng(seed)
    model, atoms = gemmi.Model(1), []
    chain = gemmi.Chain("A")
    for i in range(count):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "UNK", gemmi.SeqId(i + 1, " ")
        atom = gemmi.Atom()
        element = "CNOSP"[i % 5]
        place = np.round(rng.normal(size=3) * radius / 2.5, 3) + np.array([100, -20, 7])
        atom.name, atom.element = element, gemmi.Element(element)
        atom.pos, atom.b_iso = gemmi.Position(*place), round(rng.uniform(10, 60), 2)
        residue.add_atom(atom)
        chain.add_residue(residue)
        atoms.append((element, place, atom.b_iso))
    model.add_chain(chain)
    structure = gemmi.Structure()
    structure.add_model(model)
    structure.write_pdb(str(path))
    mass = np.array([gemmi.Element(e).weight for e, _, _ in atoms])
    centre = mass @ np.array([p for _, p, _ in atoms]) / mass.sum()
    return [(e, p - centre, b) for e, p, b in atoms]


def projected_potential(atoms, rotation, box, pixel, limit):
    """The projected potential (V·Å): a direct sum over atoms in Fourier space, up to ``limit`` (1/Å)."""
    fy, fx = np.meshgrid(np.fft.fftfreq(box, pixel), np.fft.rfftfreq(box, pixel), indexing="ij")
    s2 = fx**2 + fy**2
    total = np.zeros(s2.shape, complex)
    for element, place, b_iso in atoms:
        shape = gemmi.Element(element).c4322
        form = sum(a * np.exp(-b * s2 / 4) for a, b in zip(shape.a, shape.b))
        x, y, _ = rotation @ place
        total += form * np.exp(-b_iso * s2 / 4) * np.exp(-2j * np.pi * (fx * x + fy * y))
    total[s2 > limit**2] = 0
    return irfft2(total, (box, box)) * MOTT_BETHE / pixel**2


@pytest.mark.parametrize(("box", "pixel"), [(64, 1.5), (41, 3.0), (80, 1.05)])
def test_projections_equal_sums_over_atoms(tmp_path, box, pixel):
    atoms = write_model(tmp_path / "model.pdb")
    volume = density_from_model(tmp_path / "model.pdb", box, pixel, solvent=False)
    projector = Projector(volume.data)
    rotations = Rotation.random(4, rng=np.random.default_rng(1)).as_matrix()
    images = projector.images(rotations) * pixel
    for image, rotation in zip(images, rotations):
        # Both limited to the Nyquist sphere: the projector holds nothing beyond.
        expected = projected_potential(atoms, rotation, box, pixel, 0.5 / pixel)
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.999
        assert image.std() == pytest.approx(expected.std(), rel=0.01)


def test_a_larger_frame_shows_the_same_projection_unfolded(tmp_path):
    write_model(tmp_path / "model.pdb")
    projector = Projector(density_from_model(tmp_path / "model.pdb", 48, 2.5).data)
    rotation = Rotation.random(2, rng=np.random.default_rng(2)).as_matrix()
    large = np.roll(projector.images(rotation, 96), (-24, -24), axis=(1, 2))
    # What lies outside the smaller frame is folded into it.
    folded = large.reshape(2, 2, 48, 2, 48).sum(axis=(1, 3))
    np.testing.assert_allclose(folded, projector.images(rotation), atol=1e-4 * float(np.abs(large).max()))


def test_agrees_with_relions_projections(test_data):
    folder = test_data / "formats" / "relion"
    table = starfile.read(folder / "rln_proj_64_shifted.star", always_dict=True)["particles"]
    volume = fourier_resize_volumes(mrcfile.read(folder / "clean70SRibosome_vol_65p.mrc"), 64)
    angles = [table[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")]
    images = Projector(volume).images(from_relion(*angles))
    # An origin carries the particle to the centre: the image shows it moved by minus that.
    images = shift_images(images, -table[["rlnOriginX", "rlnOriginY"]].to_numpy())
    with mrcfile.open(folder / "rln_proj_64_shifted.mrcs", permissive=True) as file:
        relion = file.data
    for ours, theirs in zip(images, relion, strict=True):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
