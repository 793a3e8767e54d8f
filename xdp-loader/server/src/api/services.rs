//! Services and backends: listing and changing them one by one.

use axum::{Extension, Json, extract::State, http::StatusCode};
use lvx_api::DrainRequest;

use super::Api;
use crate::error::{ApiError, Body, Segments};
use lvx_model::{
    Backend, BackendAddress, BackendChange, Desired, Refusal, Service, ServiceAddress, ServiceChange, exec::Author,
};

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Service>> {
    Json(api.controller.desired().to_document().services)
}

pub(super) async fn show(State(api): State<Api>, Segments(service): Segments<String>) -> Answer<Service> {
    Ok(Json(api.controller.desired().service(service.parse()?)?.clone()))
}

pub(super) async fn add(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Body(service): Body<Service>,
) -> Result<(StatusCode, Json<Service>), ApiError> {
    let address = service.address;
    let change = move |desired: &mut Desired| {
        desired.add_service(service)?;
        desired.service(address).cloned()
    };
    Ok((StatusCode::CREATED, Json(api.controller.change(author, change).await?)))
}

pub(super) async fn set(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments(service): Segments<String>,
    Body(change): Body<ServiceChange>,
) -> Answer<Service> {
    let address = service.parse()?;
    let change = move |desired: &mut Desired| {
        desired.set_service(address, &change)?;
        desired.service(address).cloned()
    };
    Ok(Json(api.controller.change(author, change).await?))
}

pub(super) async fn del(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments(service): Segments<String>,
) -> Answer<Service> {
    let address = service.parse()?;
    let change = move |desired: &mut Desired| {
        let removed = desired.service(address)?.clone();
        desired.del_service(address)?;
        Ok(removed)
    };
    Ok(Json(api.controller.change(author, change).await?))
}

pub(super) async fn add_backend(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments(service): Segments<String>,
    Body(backend): Body<Backend>,
) -> Result<(StatusCode, Json<Backend>), ApiError> {
    let (service, name) = (service.parse()?, backend.name());
    let change = move |desired: &mut Desired| {
        desired.add_backend(service, backend)?;
        find(desired, service, name)
    };
    Ok((StatusCode::CREATED, Json(api.controller.change(author, change).await?)))
}

pub(super) async fn set_backend(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments((service, backend)): Segments<(String, String)>,
    Body(change): Body<BackendChange>,
) -> Answer<Backend> {
    change_backend(&api, author, service.parse()?, backend.parse()?, change).await
}

pub(super) async fn drain(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments((service, backend)): Segments<(String, String)>,
    Body(request): Body<DrainRequest>,
) -> Answer<Backend> {
    let change = BackendChange {
        drain: Some(request.drain),
        ..BackendChange::default()
    };
    change_backend(&api, author, service.parse()?, backend.parse()?, change).await
}

pub(super) async fn del_backend(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Segments((service, backend)): Segments<(String, String)>,
) -> Answer<Backend> {
    let (service, backend) = (service.parse()?, backend.parse()?);
    let change = move |desired: &mut Desired| {
        let removed = find(desired, service, backend)?;
        desired.del_backend(service, backend)?;
        Ok(removed)
    };
    Ok(Json(api.controller.change(author, change).await?))
}

async fn change_backend(
    api: &Api,
    author: Author,
    service: ServiceAddress,
    backend: BackendAddress,
    change: BackendChange,
) -> Answer<Backend> {
    let change = move |desired: &mut Desired| {
        desired.set_backend(service, backend, &change)?;
        find(desired, service, backend)
    };
    Ok(Json(api.controller.change(author, change).await?))
}

fn find(desired: &Desired, service: ServiceAddress, backend: BackendAddress) -> Result<Backend, Refusal> {
    let found = desired.service(service)?.backend(backend).cloned();
    found.ok_or(Refusal::BackendUnknown { service, backend })
}
