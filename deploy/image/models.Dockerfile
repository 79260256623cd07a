# An image whose root folder is the model repository, for `repository.type: image`:
#   docker build --file deploy/image/models.Dockerfile --tag REGISTRY/models:1 model_repository
FROM scratch
COPY . /
