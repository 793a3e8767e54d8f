//! How failures are answered: a status and `{"error": "..."}`.

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use lvx_api::ErrorBody;
use serde::de::DeserializeOwned;

use lvx_control::{ChangeError, DataplaneError};
use lvx_model::{
    ParseAddressError, Refusal,
    located::{LocatedError, json_message},
};

/// A failure on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.message })).into_response()
    }
}

impl From<ParseAddressError> for ApiError {
    fn from(error: ParseAddressError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<LocatedError> for ApiError {
    fn from(error: LocatedError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::ServiceUnknown(_) | Refusal::BackendUnknown { .. } => StatusCode::NOT_FOUND,
            Refusal::ServiceExists(_) | Refusal::BackendExists { .. } => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let status = match error {
            ChangeError::Refused(refusal) => return refusal.into(),
            ChangeError::Dataplane(DataplaneError::Full { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// The byte order mark that some programs write before a text.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// A JSON body, whatever its content type says; what is wrong with it is answered in our form.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request, state).await?;
        let text = bytes.strip_prefix(BOM).unwrap_or(&bytes);
        serde_json::from_slice(text).map(Self).map_err(|error| {
            let status = if error.is_data() {
                StatusCode::UNPROCESSABLE_ENTITY
            } else {
                StatusCode::BAD_REQUEST
            };
            ApiError::new(status, json_message(&error))
        })
    }
}

/// A body that is text.
pub(crate) struct Text(pub(crate) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request, state).await?;
        let text = String::from_utf8(bytes.into())
            .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the body is not UTF-8 text"))?;
        Ok(Self(text))
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state)
        .await
        .map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, lvx_api::too_large()),
            status => ApiError::new(status, error.body_text()),
        })
}

/// The query of a URL; what is wrong with it is answered in our form.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(Self(value))
    }
}

/// The variable segments of a path; what is wrong with them is answered in our form.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(value) = path.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(Self(value))
    }
}
