"""A phantom looks like a thorax: sides, densities, sizes, and what differs between people and between visits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from imgsynth.cohort.phantom import phantom_volume
from imgsynth.cohort.phantom_anatomy import SCANNERS, PatientAnatomy, Study
from imgsynth.cohort.phantom_canvas import Canvas
from imgsynth.cohort.phantom_draw import draw_patient, draw_study
from imgsynth.cohort.phantom_render import lesion_mask, render

SIZE = 64
QUIET = replace(SCANNERS[2], noise=0.0, offset=0.0)  # no couch either
STRAIGHT = Study(QUIET, (0.0, 0.0, 0.0), 0.0, 0.0, 1.0, 0)


def people(n: int, has_lesion: bool = False) -> list[PatientAnatomy]:
    return [draw_patient(np.random.default_rng([7, i]), has_lesion) for i in range(n)]


@pytest.fixture(scope="module")
def patients() -> list[PatientAnatomy]:
    return people(12)


@pytest.fixture(scope="module")
def images(patients: list[PatientAnatomy]) -> list[np.ndarray]:
    return [render(p, STRAIGHT, SIZE).astype(float) for p in patients]


def coordinates(size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RAS+ millimetres of each voxel, from the affine of the volume."""
    affine = phantom_volume(people(1)[0], STRAIGHT, size).affine
    index = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    return tuple(np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None])


def lungs_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the lung on x > 0 and of that on x < 0: large aerated parts, neither airway nor the air outside."""
    air, _ = ndimage.label(image < -500)
    outside = ndimage.binary_dilation(air == air[0, 0, 0], iterations=2)
    parts, _ = ndimage.label(ndimage.binary_opening((image < -600) & (image > -930) & ~outside))
    large = np.flatnonzero(np.bincount(parts.ravel()) > 1500)
    lung = np.isin(parts, large[large > 0])
    x, _, _ = coordinates(image.shape[0])
    return lung & (x > 0), lung & (x < 0)


def test_the_lungs_are_aerated_and_of_a_person_s_size(images: list[np.ndarray]) -> None:
    for image in images:
        right, left = lungs_of(image)
        litres = (right | left).sum() * 6.0**3 / 1e6
        assert 2.0 < litres < 7.0
        assert -880 < np.median(image[right | left]) < -700
    volumes = np.array([[side.sum() for side in lungs_of(image)] for image in images])
    assert (volumes[:, 0] > volumes[:, 1]).all()  # the heart takes its room from the left lung


def test_the_heart_lies_on_the_patient_s_left(patients: list[PatientAnatomy], images: list[np.ndarray]) -> None:
    x, y, z = coordinates()
    for p, image in zip(patients, images, strict=True):
        slab = (np.abs(z - (p.dome_right + 34.0)) < 8.0) & (np.abs(y - 24.0) < 20.0) & (np.abs(x) < 0.8 * p.cavity_a)
        soft = slab & (image > -50) & (image < 120)
        assert x[soft].mean() < -8.0  # RAS+: the left is negative


def test_the_right_diaphragm_is_higher_with_the_liver_below_it(images: list[np.ndarray]) -> None:
    x, y, z = coordinates()
    higher = []
    for image in images:
        lung = np.logical_or(*lungs_of(image))
        bottom = [z[lung & (np.abs(x - side) < 9) & (np.abs(y + 25) < 9)].min() for side in (75.0, -75.0)]
        higher.append(bottom[0] - bottom[1])
        liver = (np.abs(x - 70) < 15) & (np.abs(y) < 20) & (np.abs(z + 130) < 10)
        assert 40 < np.median(image[liver]) < 75
    assert 5 < np.mean(higher) < 25


def test_the_spine_is_behind_and_the_ribs_are_around(images: list[np.ndarray]) -> None:
    x, y, z = coordinates()
    for image in images:
        bone = (image > 130) & (np.abs(z) < 100)
        column = bone & (np.abs(x) < 24) & (y < 60)
        assert y[column].mean() < -35
        assert len(np.unique(z[column])) > 30  # in every slice
        ribs = bone & (np.abs(x) > 75)
        assert 0.6 < ribs[x > 0].sum() / ribs[x < 0].sum() < 1.6
        along_z = ribs.any(axis=1).sum(axis=0)[SIZE // 4 : SIZE // 2 + 10]
        assert along_z.min() < 0.7 * along_z.max()  # separate ribs, not a shell


def test_fat_lies_between_skin_and_muscle(patients: list[PatientAnatomy]) -> None:
    stout = replace(patients[0], fat=30.0)
    row = render(stout, STRAIGHT, SIZE)[SIZE // 2 :, SIZE // 2, SIZE // 2].astype(float)  # from the midline outward
    skin = np.flatnonzero(row > -500)[-1]  # 6 mm voxels
    assert np.allclose(row[skin - 4 : skin - 1], -100, atol=1)
    assert row[skin - 7 : skin - 5].max() > 40


def test_women_have_breasts(patients: list[PatientAnatomy]) -> None:
    _, y, z = coordinates()
    for p in patients[:6]:
        image = render(p, STRAIGHT, SIZE).astype(float)
        front = (z > -60) & (z < 20) & (y > p.cavity_b + 9 + p.fat + p.muscle + 8)
        assert (image[front] > -200).any() == (p.sex == "F")
    assert {p.sex for p in patients[:6]} == {"F", "M"}


def test_voxels_hold_the_mean_of_what_they_cover(patients: list[PatientAnatomy]) -> None:
    fine = render(patients[0], STRAIGHT, 64).astype(float)
    coarse = render(patients[0], STRAIGHT, 32).astype(float)
    mean = fine.reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    assert np.abs(mean - coarse).max() <= 1.0  # both round to whole HU
    finer = render(patients[0], STRAIGHT, 128).astype(float).reshape(32, 4, 32, 4, 32, 4).mean(axis=(1, 3, 5))
    assert np.abs(finer - coarse).mean() < 5.0  # the soft edges stand in for the finer grid


def test_thin_vessels_keep_their_volume() -> None:
    canvas = Canvas(32, 12.0, (3.0, -4.0, 5.0), 0.05, -1000.0)
    random = np.random.default_rng(0)
    filled = canvas.splat(random.uniform(-120, 120, (500, 3)), np.full(500, 2.0))
    assert filled.sum() * 12.0**3 == pytest.approx(1000.0, rel=1e-5)
    point = np.array([[30.0, -60.0, 90.0]])
    centre = np.array(ndimage.center_of_mass(canvas.splat(point, np.ones(1)))) * 12.0 - 186.0
    assert np.allclose(centre, canvas.to_scanner(point)[0], atol=1e-3)


def test_scanner_frame_and_patient_frame_agree() -> None:
    canvas = Canvas(48, 8.0, (5.0, -7.0, 11.0), 0.3, -1000.0)
    target = np.array([40.0, 20.0, -30.0])
    distance = np.sqrt((canvas.x - 40) ** 2 + (canvas.y - 20) ** 2 + (canvas.z + 30) ** 2)
    nearest = np.unravel_index(distance.argmin(), distance.shape)
    assert np.abs((np.array(nearest) - 23.5) * 8.0 - canvas.to_scanner(target[None])[0]).max() <= 4.0
    box = canvas.box(target, 10.0)
    assert (distance[box] < 12.0).sum() == (distance < 12.0).sum()  # the box misses nothing


def test_a_lesion_is_where_its_mask_says_and_nowhere_else() -> None:
    for i in range(10):
        sick = draw_patient(np.random.default_rng([3, i]), True)
        well = draw_patient(np.random.default_rng([3, i]), False)
        assert sick.lesion is not None and well.lesion is None
        study = draw_study(np.random.default_rng([4, i]), SCANNERS[i % 3], first=True)
        with_, without = (render(p, study, SIZE).astype(float) for p in (sick, well))
        mask = lesion_mask(sick, study, SIZE)
        added = np.abs(with_ - without)
        near = ndimage.binary_dilation(mask, iterations=2)
        assert (added[~near] == 0).all()
        assert np.median(added[mask]) > 250 and np.median(without[mask]) < -500  # it displaces lung
        ball = np.pi / 6 * sick.lesion.diameter**3
        assert 0.75 < mask.sum() * 6.0**3 / ball < 1.7  # lobules add to the core
        assert not lesion_mask(well, study, SIZE).any()


def test_a_lesion_can_be_told_at_12_mm() -> None:
    for i in range(20):
        sick = draw_patient(np.random.default_rng([5, i]), True)
        well = draw_patient(np.random.default_rng([5, i]), False)
        study = draw_study(np.random.default_rng([6, i]), SCANNERS[2], first=True)
        contrast = (render(sick, study, 32).astype(float) - render(well, study, 32)).max()
        assert contrast > 15 * study.scanner.noise


def test_lesions_are_of_the_stated_sizes_in_either_lung() -> None:
    lesions = [p.lesion for p in people(150, has_lesion=True)]
    assert all(lesion is not None and 20 <= lesion.diameter <= 45 for lesion in lesions)
    right = np.mean([lesion.centre[0] > 0 for lesion in lesions if lesion])
    assert 0.35 < right < 0.75


def test_a_patient_resembles_himself_more_than_others(patients: list[PatientAnatomy]) -> None:
    def visit(p: PatientAnatomy, n: int) -> np.ndarray:
        return render(p, draw_study(np.random.default_rng([8, n]), SCANNERS[0], n == 0), 32).astype(float)

    first, second = (np.stack([visit(p, n + 2 * i) for i, p in enumerate(patients)]).reshape(12, -1) for n in (0, 1))
    apart = np.sqrt(((first[:, None] - second[None]) ** 2).mean(axis=2))
    own, others = np.diag(apart), apart[~np.eye(12, dtype=bool)]
    assert (own > 10).all()  # other breath, position and noise
    assert own.mean() < 0.8 * others.mean()


def test_noise_is_the_scanner_s_and_correlated_in_plane(patients: list[PatientAnatomy]) -> None:
    p = replace(patients[0], habitus=0.0)
    scanner = SCANNERS[1]
    noisy = [render(p, Study(scanner, (0.0, 0.0, 0.0), 0.0, 0.0, 1.0, seed), 32).astype(float) for seed in (1, 2)]
    noise = ((noisy[0] - noisy[1]) / np.sqrt(2))[8:24, 8:24]
    assert scanner.noise * 0.8 < noise.std() < scanner.noise * 1.4
    lag_x = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    lag_z = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert lag_x > 0.3 and abs(lag_z) < 0.06
    quiet = render(p, replace(STRAIGHT, scanner=replace(QUIET, table=True)), 32).astype(float)
    assert abs((noisy[0] - quiet)[8:24, 8:24].mean() - scanner.offset) < 1.0


def test_breathing_out_raises_the_diaphragm_and_densifies_the_lung(patients: list[PatientAnatomy]) -> None:
    x, y, z = coordinates()
    out = render(patients[0], replace(STRAIGHT, breath=1.0), SIZE).astype(float)
    full = render(patients[0], STRAIGHT, SIZE).astype(float)
    lungs = [np.logical_or(*lungs_of(image)) for image in (full, out)]
    assert lungs[1].sum() < 0.9 * lungs[0].sum()
    assert np.median(out[lungs[1]]) > np.median(full[lungs[0]]) + 40
    bottoms = [z[lung & (np.abs(x - 65) < 10) & (np.abs(y) < 10)].min() for lung in lungs]
    assert 12 <= bottoms[1] - bottoms[0] <= 36


def test_phantom_volume_is_a_volume_in_hounsfield_units(patients: list[PatientAnatomy]) -> None:
    volume = phantom_volume(patients[0], STRAIGHT, 32)
    assert volume.orientation == "RAS" and volume.spacing == (12.0, 12.0, 12.0)
    assert (volume.modality, volume.unit) == ("CT", "HU") and volume.array.shape == (32, 32, 32)
    assert np.allclose(volume.affine @ [15.5, 15.5, 15.5, 1], [0, 0, 0, 1])
    assert volume.meta["PatientSex"] == patients[0].sex


def test_a_lesion_rises_with_the_lung_when_breathing_out() -> None:
    rises = []
    for p in people(8, has_lesion=True):
        full, out = (lesion_mask(p, replace(STRAIGHT, breath=breath), SIZE) for breath in (0.0, 1.0))
        x, y, z = (b - a for a, b in zip(*map(ndimage.center_of_mass, (full, out)), strict=True))
        assert abs(x) < 0.3 and abs(y) < 0.3
        rises.append((p.lesion.centre[2] if p.lesion else 0.0, z * 6.0))
    heights, risen = np.array(rises).T
    assert (risen > -1).all() and (risen < 26).all()
    assert np.corrcoef(heights, risen)[0, 1] < -0.9  # most at the base, least at the apex
