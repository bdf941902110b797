from hnm.face.cohort import OpenCohort as OpenCohort
from hnm.face.cohort import open_cohort as open_cohort
from hnm.face.encoder import PatchEncoder as PatchEncoder
from hnm.face.encoder import embed as embed
from hnm.face.encoder import load_encoder as load_encoder
from hnm.face.run import OpenRun as OpenRun
from hnm.face.run import SlideScores as SlideScores
from hnm.face.run import open_run as open_run
from shards.errors import InputError as InputError

PLACES: dict[str, str]
__version__: str
