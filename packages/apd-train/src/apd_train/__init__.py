"""Training of asynchronous diffusion models on Lightning Fabric."""

from ._autoencoder_config import AutoencoderTraining as AutoencoderTraining
from ._autoencoder_loss import AutoencoderLoss as AutoencoderLoss
from ._averages import Ema as Ema
from ._batches import Batch as Batch, Batches as Batches
from ._checkpoint import Checkpoint as Checkpoint, CheckpointError as CheckpointError, Checkpoints as Checkpoints
from ._config import (
    ConfigError as ConfigError,
    TrainConfig as TrainConfig,
    asynchronous as asynchronous,
)
from ._data import (
    Animals28 as Animals28,
    DataError as DataError,
    DataSource as DataSource,
    ImageArrays as ImageArrays,
    ImageFolder as ImageFolder,
    ImageLmdb as ImageLmdb,
    ImageParquet as ImageParquet,
    ImageSet as ImageSet,
    ImageZip as ImageZip,
    Latents as Latents,
    LatentScale as LatentScale,
    hold_out as hold_out,
    load_animals28 as load_animals28,
    load_folder as load_folder,
    source_of as source_of,
)
from ._dry_run import dry_run as dry_run
from ._dry_run_autoencoder import dry_run_autoencoder as dry_run_autoencoder
from ._encoding import (
    Encoded as Encoded,
    ToEncode as ToEncode,
    encode_set as encode_set,
    load_set_images as load_set_images,
    load_to_encode as load_to_encode,
    round_trip as round_trip,
    verify_set as verify_set,
)
from ._error_head import fit_error_head as fit_error_head
from ._execution import Execution as Execution
from ._fit import Trained as Trained, fit as fit
from ._fit_autoencoder import TrainedAutoencoder as TrainedAutoencoder, fit_autoencoder as fit_autoencoder
from ._guard import DivergedError as DivergedError
from ._launch import exit_status as exit_status, launch as launch
from ._loader import loader as loader
from ._loop import DataLostError as DataLostError
from ._parallel import local_batch as local_batch, make_fabric as make_fabric
from ._position import Progress as Progress
from ._processes import ElsewhereError as ElsewhereError, everywhere as everywhere, together as together
from ._run_folder import (
    RunFolder as RunFolder,
    RunFolderError as RunFolderError,
    WriteError as WriteError,
    read_metrics as read_metrics,
)
from ._snapshots import (
    SnapshotError as SnapshotError,
    Snapshots as Snapshots,
    Synthesis as Synthesis,
    synthesize as synthesize,
)
from ._trackers import Tracker as Tracker
